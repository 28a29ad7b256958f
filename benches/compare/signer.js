// AWS Signature Version 4 for nginx with njs, for keys of unreserved characters: what a signing nginx
// costs at the least. njs keeps nothing from one request to the next, so the signing key is derived for
// each.

import crypto from 'crypto';

const SIGNED_HEADERS = 'host;x-amz-content-sha256;x-amz-date';

function hmac(key, text) {
    return crypto.createHmac('sha256', key).update(text).digest();
}

function date() {
    return new Date().toISOString().replace(/[-:]|\.\d+/g, '');
}

function authorization(r) {
    const date = r.variables.amz_date;
    const day = date.substring(0, 8);
    const scope = `${day}/us-east-1/s3/aws4_request`;
    const headers = `host:${r.variables.server_name}\nx-amz-content-sha256:UNSIGNED-PAYLOAD\nx-amz-date:${date}\n`;
    const canonicalRequest =
        `${r.method}\n${r.variables.store_path}\n\n${headers}\n${SIGNED_HEADERS}\nUNSIGNED-PAYLOAD`;
    const digest = crypto.createHash('sha256').update(canonicalRequest).digest('hex');
    const stringToSign = `AWS4-HMAC-SHA256\n${date}\n${scope}\n${digest}`;
    const signingKey = [day, 'us-east-1', 's3', 'aws4_request'].reduce(
        hmac, `AWS4${process.env.AWS_SECRET_ACCESS_KEY}`);
    const signature = crypto.createHmac('sha256', signingKey).update(stringToSign).digest('hex');
    const credential = `${process.env.AWS_ACCESS_KEY_ID}/${scope}`;
    return `AWS4-HMAC-SHA256 Credential=${credential}, SignedHeaders=${SIGNED_HEADERS}, Signature=${signature}`;
}

export default { date, authorization };
